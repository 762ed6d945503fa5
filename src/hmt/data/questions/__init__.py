"""Questions that a document answers, made from the document alone, and where it answers them.

    text, questions = ask_document(text, random.Random(0), facts=10)
    ids, offsets = ...                                     # of a fast tokenizer
    samples = question_samples(ids, in_tokens(questions, offsets), tokenizer, 256,
    random.Random(0))

They teach recall which segment holds what is asked for, and the backbone to answer from it. Four sources:
cloze questions and questions by patterns (`cloze`, `natural`), made-up facts hidden in the text (`facts`),
and question sets that say which of their paragraphs are needed (`supported`). Everything follows from the
random generator that the caller brings.
"""

from hmt.data.questions.cloze import cloze_questions
from hmt.data.questions.facts import hide_facts
from hmt.data.questions.natural import natural_questions
from hmt.data.questions.question import Question, in_tokens
from hmt.data.questions.rewording import reword, word_neighbours
from hmt.data.questions.samples import ask_document, question_samples
from hmt.data.questions.supported import read_supported
from hmt.data.questions.training import training_sample

__all__ = [
    "Question",
    "ask_document",
    "cloze_questions",
    "hide_facts",
    "in_tokens",
    "natural_questions",
    "question_samples",
    "read_supported",
    "reword",
    "training_sample",
    "word_neighbours",
]
