"""What `tools/check-docs` is made of: what the code of each language has, and what the pages of the documentation say of it."""
