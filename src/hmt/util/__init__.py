"""Small tools that know nothing of memory."""
