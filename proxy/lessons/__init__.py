"""What a lesson call is, how several become one, and how one answer becomes several: pure functions of values."""
