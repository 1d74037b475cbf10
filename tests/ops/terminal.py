"""Standard input as a terminal at which a person types."""

from collections.abc import Callable


class Terminal:
    """answers: what is typed. before_answer: called with the number of each question, from 1."""

    def __init__(
        self, answers: str, before_answer: Callable[[int], None] = lambda _number: None
    ) -> None:
        self._answers = answers.splitlines(keepends=True)
        self.questions = 0
        self._before_answer = before_answer

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        self.questions += 1
        self._before_answer(self.questions)
        return self._answers.pop(0) if self._answers else ""
