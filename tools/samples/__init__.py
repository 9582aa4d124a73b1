"""What `tools/run-readme-samples` is made of: where the samples of a page are, and how those in Rust are run."""
