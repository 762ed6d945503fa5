"""`hmt demo`: a long document is read once and asked. `README.md` says what it does."""
