"""Set the exam: questions made by code from verbatim facts of documents that training never sees.

In: the corpus, before the first step.
Out: a frozen `Exam` under one digest, and the prompts it is asked with.
Refuses: chunks of the training split; rollouts (no function here takes one, only text to compare with); an empty exam.
Not here: asking and grading (`evaluation.py`).

Two in three questions are clozes (write the missing value), one is a choice (the likeliest of four values of one kind).
Wrong options come from the passage itself and from other unseen documents: values of training documents would be more or
less likely for having been trained on, which is not what is measured.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spice_enterprise.config import ExamConfig
from spice_enterprise.errors import ReleaseError
from spice_enterprise.protocols import Corpus
from spice_enterprise.records import Chunk, Claim, Exam, ExamItem, Message, Prompt, digest_of
from spice_enterprise.release.facts import BLANK, Fact, find_facts, values_of
from spice_enterprise.seeding import stream

EXAM_VERSION: Final = "exam/v1"
CHOICE_EVERY: Final = 3
"""One question in three is a choice: a model that reads at all finds the likeliest value, so clozes tell more."""
OPTIONS: Final = 4
NEAR_OPTIONS: Final = 2
NGRAM_WORDS: Final = 13

WITH_PASSAGE: Final = "Which words of the passage stand in the blank?"
WITHOUT_PASSAGE: Final = "Which words stand in the blank?"
LEAD: Final = "Answer:"
EXAMPLE_PASSAGE: Final = "The canteen serves 220 meals per day. It opens at noon."
EXAMPLE_SENTENCE: Final = f"The canteen serves {BLANK} per day."
EXAMPLE_ANSWER: Final = "220 meals"

Pool = Mapping[tuple[str, str], Sequence[tuple[str, str]]]
"""(kind, form) to the (value, document_id) pairs that unseen documents hold; form "" is every form of the kind."""


@dataclass(frozen=True, slots=True)
class FactExaminer:
    """The default `Examiner`: no model takes part, so none can be examined on its own questions."""

    config: ExamConfig
    seed: int

    def set_exam(self, corpus: Corpus) -> Exam:
        """Freeze the questions. The same corpus, settings and seed give the same exam.

        Raises `ReleaseError` (`E_EXAM_EMPTY`) when the unseen documents hold no usable fact.
        """
        items = self._items("transfer", corpus.exam, self.config.max_questions)
        if not items:
            raise ReleaseError(
                f"no question can be made from {len({chunk.document_id for chunk in corpus.exam})} unseen document(s)",
                code="E_EXAM_EMPTY",
                hint="add documents that state dates, amounts, numbers or identifiers in full sentences",
            )
        recall = self._items("recall", corpus.train, self.config.recall_questions)
        return Exam(items=(*items, *recall), settings_digest=self.settings_digest(), corpus_digest=corpus.digest)

    def settings_digest(self) -> str:
        """`sha256:` over everything besides the items that decides an answer: settings, seed, prompts."""
        return digest_of([EXAM_VERSION, self.config.model_dump(mode="json"), self.seed, exam_wording()])

    def _items(self, claim: Claim, chunks: Sequence[Chunk], most: int) -> tuple[ExamItem, ...]:
        """Return at most `most` questions about `chunks`, the documents in turn."""
        if not most:
            return ()
        pool = _value_pool(chunks)
        by_document: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            by_document[chunk.document_id].append(chunk)
        documents = sorted(by_document)
        queues = [self._items_of(by_document[document], pool, turn, claim) for turn, document in enumerate(documents)]
        return _take_in_turns(queues, most)

    def _items_of(self, chunks: Sequence[Chunk], pool: Pool, turn: int, claim: Claim) -> list[ExamItem]:
        """Return the questions of the `turn`-th document, formats in turn, drawn over all its chunks."""
        found = [(chunk, fact) for chunk in chunks for fact in find_facts(chunk.text)]
        draw = stream(self.seed, "exam", chunks[0].document_id)
        draw.shuffle(found)
        found.sort(key=lambda pair: pair[1].kind == "name")  # names are common and easy: they fill up, values come first
        items: list[ExamItem] = []
        for chunk, fact in found[: self.config.questions_per_document]:
            options = self._options(chunk, fact, pool) if (turn + len(items)) % CHOICE_EVERY == 0 else ()
            items.append(_item(chunk, fact, options, claim))
        return items

    def _options(self, chunk: Chunk, fact: Fact, pool: Pool) -> tuple[str, ...]:
        """Return the answer among three wrong values of its kind; nothing when there are too few.

        At most two stand elsewhere in the passage: without them, reading would not be needed, only recognising.
        """
        near = {value for kind, form, value in values_of(chunk.text) if (kind, form) == (fact.kind, fact.form) and kind != "cell"}
        others = sorted(value for value in near if _plain(value) != _plain(fact.value))
        stream(self.seed, "near", chunk.chunk_id, fact.value).shuffle(others)
        del others[NEAR_OPTIONS:]
        for form in (fact.form, ""):
            held = sorted({value for value, document in pool.get((fact.kind, form), ()) if document != chunk.document_id})
            draw = stream(self.seed, "options", chunk.chunk_id, fact.value, form)
            draw.shuffle(held)
            others += [value for value in held if value not in others and _is_distractor(value, fact, chunk)]
        if len(others) < OPTIONS - 1:
            return ()
        options = [fact.value, *others[: OPTIONS - 1]]
        stream(self.seed, "order", chunk.chunk_id, fact.value).shuffle(options)
        return tuple(options)


def _item(chunk: Chunk, fact: Fact, options: tuple[str, ...], claim: Claim) -> ExamItem:
    return ExamItem(
        document_id=chunk.document_id,
        chunk_id=chunk.chunk_id,
        claim=claim,
        item_format="choice" if options else "cloze",
        passage=chunk.text,
        question=fact.question,
        answer=fact.value,
        answer_kind=fact.answer_kind,
        options=options,
    )


def _value_pool(chunks: Sequence[Chunk]) -> Pool:
    pool: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for chunk in chunks:
        for kind, form, value in values_of(chunk.text):
            pool[kind, form].append((value, chunk.document_id))
            if form and kind != "cell":  # values of two different keys are not of one kind
                pool[kind, ""].append((value, chunk.document_id))
    return pool


def _is_distractor(value: str, fact: Fact, chunk: Chunk) -> bool:
    """A wrong answer from elsewhere: of another value than the fact, and not in the passage in another meaning."""
    return _plain(value) != _plain(fact.value) and value not in chunk.text


def _plain(value: str) -> str:
    return re.sub(r"[\s,.]", "", value).casefold()


def _take_in_turns(queues: Sequence[Sequence[ExamItem]], limit: int) -> tuple[ExamItem, ...]:
    """Take one question of each document in turn up to `limit`, never one question twice; boilerplate repeats itself."""
    taken: list[ExamItem] = []
    asked: set[str] = set()
    for turn in range(max(map(len, queues), default=0)):
        for item in (queue[turn] for queue in queues if turn < len(queue)):
            if item.question not in asked and len(taken) < limit:
                asked.add(item.question)
                taken.append(item)
    return tuple(sorted(taken, key=lambda item: (item.document_id, item.item_id)))


# --- the prompt -------------------------------------------------------------------------------------------------------


def exam_prompt(item: ExamItem, *, with_passage: bool, answer_tokens: int) -> Prompt:
    """Return the greedy prompt of a question, after one worked example. Not the self-play prompt: that one is trained on.

    The sentence stands in the user's turn and the answer is asked for by itself. A prompt that lets the model go on with
    the sentence is answered by copying: the untrained 135M base gets 98 % of it right, and nothing could be measured.
    """
    turns = (_asked(EXAMPLE_PASSAGE, EXAMPLE_SENTENCE, with_passage=with_passage), f"{LEAD} {EXAMPLE_ANSWER}")
    return Prompt(
        messages=(
            Message(speaker="user", content=turns[0]),
            Message(speaker="assistant", content=turns[1]),
            Message(speaker="user", content=_asked(item.passage, item.question, with_passage=with_passage)),
        ),
        template_id=f"{EXAM_VERSION}/{'with' if with_passage else 'without'}-passage",
        max_new_tokens=answer_tokens,
        temperature=0.0,
        stop=("\n",),
        prefill=LEAD,
    )


def exam_wording() -> list[str]:
    """Return every word of the prompts that is not an item's: the exam's digest covers them."""
    return [WITH_PASSAGE, WITHOUT_PASSAGE, LEAD, EXAMPLE_PASSAGE, EXAMPLE_SENTENCE, EXAMPLE_ANSWER]


def _asked(passage: str, sentence: str, *, with_passage: bool) -> str:
    if with_passage:
        return f"Passage:\n{passage}\n\nSentence: {sentence}\n{WITH_PASSAGE}"
    return f"Sentence: {sentence}\n{WITHOUT_PASSAGE}"


def continuations(item: ExamItem) -> list[str]:
    """Return the options as they continue the prompt's prefill."""
    return [f" {option}" for option in item.options]


def missing_words(question: str, text: str) -> str:
    """Return what a completion puts into the blank: its first line, up to where the sentence goes on as in the question."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    rest = question.split(BLANK, 1)[-1].split()
    for follow in (rest[:2], rest[:1]):
        if follow and (match := _whole(follow).search(line)):
            return line[: match.start()].strip()
    return line


def _whole(words: Sequence[str]) -> re.Pattern[str]:
    """Match these words and not parts of longer ones; a comma inside a number or before a year belongs to the value."""
    start = r"(?<!\w)" if words[0][0].isalnum() else ""
    end = r"(?!\w)" if words[-1][-1].isalnum() else r"(?=\s|$)(?!\s+\d{4}\b)"
    return re.compile(start + r"\s+".join(re.escape(word) for word in words) + end)


# --- contamination ----------------------------------------------------------------------------------------------------


def overlapping_ids(exam: Exam, texts: Iterable[str]) -> frozenset[str]:
    """Return the items whose statement shares 13 words in a row with one of `texts`; shorter ones are compared whole."""
    grams: dict[int, dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for item in exam.items:
        words = _words(item.question.replace(BLANK, item.answer))
        size = min(NGRAM_WORDS, len(words))
        for gram in _ngrams(words, size):
            grams[size][gram].add(item.item_id)
    hit: set[str] = set()
    for text in texts:
        words = _words(text)
        for size, known in grams.items():
            hit.update(*(known[gram] for gram in _ngrams(words, size) if gram in known))
    return frozenset(hit)


def overlapping_items(exam: Exam, texts: Iterable[str]) -> int:
    """Return how many items share 13 words in a row with one of `texts`."""
    return len(overlapping_ids(exam, texts))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)] if size else []
