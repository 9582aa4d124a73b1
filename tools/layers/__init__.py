"""What `tools/check-layers` is made of: who imports whom in each language, the circles in that, and the stated layers."""
