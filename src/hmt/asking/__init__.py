"""Books that are read once, kept, and asked: the answer, and where it was read.

books = Books.open("moby.txt", model="smollm2-135m")
books.ask("Who is the captain?").answer
books.recall("the white whale")[0].text
"""

from hmt.asking.books import Answer, Books, Texts, ask, recall
from hmt.asking.found import Found

__all__ = ["Answer", "Books", "Found", "Texts", "ask", "recall"]
