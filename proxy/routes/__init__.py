"""The HTTP edge, thin: it reads a request into a Call and writes a Reply."""
