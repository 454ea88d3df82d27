"""The proof by loading: transformers, the loader most people use, must find in an artifact what the plan says."""
