"""Who is calling, and may they: API keys."""
