"""What happened, told as frozen events to listeners."""
