"""lesson-proxy: merges single-lesson calls of one user, subject and topic into one call upstream."""
