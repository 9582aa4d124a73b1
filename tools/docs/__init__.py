"""What `tools/make-docs` is made of: pages that are generated, and the hooks by which MkDocs takes them and what they load."""
