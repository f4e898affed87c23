"""The providers: the only room that knows litellm."""
