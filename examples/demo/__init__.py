"""`hmt demo --train`: the whole library, on the text that every Python has. `README.md` says what it does."""
