"""Where calls wait for their companions."""
