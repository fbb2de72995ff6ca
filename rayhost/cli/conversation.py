"""A conversation as `chat` keeps it, and the commands that change it. Pure: text in, text out."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

HELP = """\
/system TEXT   set the system message; without TEXT, show it; "/system -" removes it
/model [NAME]  ask another model from now on; without NAME, list them
/retry         ask the last question again
/clear         forget what was said; the system message stays
/help          show this
/exit          leave (also Ctrl-D)
A message that begins with / is sent when it begins with //. Ctrl-C stops an answer."""

_COMMAND = re.compile(r"/([a-z?]+)(?:\s+(.*))?", re.DOTALL)

Message = dict[str, str]


@dataclass(slots=True)
class Conversation:
    """Who was told what so far."""

    model: str
    system: str = ""
    turns: list[Message] = field(default_factory=list)
    unanswered: str = ""

    def asking(self, question: str) -> list[Message]:
        """Return the messages to send for a question."""
        self.unanswered = question
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.turns, {"role": "user", "content": question}]

    def answered(self, text: str) -> None:
        """Keep the question with its answer; one without an answer counts as not asked."""
        if text:
            self.turns.append({"role": "user", "content": self.unanswered})
            self.turns.append({"role": "assistant", "content": text})
            self.unanswered = ""

    def retract(self) -> str:
        """Take the last question back, with its answer; return it, "" if there was none."""
        question = self.unanswered
        if not question and self.turns:
            question = self.turns[-2]["content"]
            del self.turns[-2:]
        return question

    def clear(self) -> None:
        """Forget what was said."""
        self.turns.clear()
        self.unanswered = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What a line leads to: something to show, a question to ask, or the end."""

    notice: str = ""
    question: str = ""
    leave: bool = False


def step(line: str, state: Conversation, models: Callable[[], list[str]]) -> Step:
    """Return what a line leads to, its command carried out on the conversation."""
    text = line.strip()
    found = _COMMAND.fullmatch(text)
    if found is None:
        return Step(question=text[1:] if text.startswith("//") else text)
    argument = (found[2] or "").strip()
    match found[1]:
        case "exit" | "quit" | "bye":
            done = Step(leave=True)
        case "help" | "?":
            done = Step(HELP)
        case "clear":
            state.clear()
            done = Step("forgotten")
        case "retry":
            question = state.retract()
            done = Step(question=question) if question else Step("nothing was asked yet")
        case "system":
            done = Step(_system(state, argument))
        case "model":
            done = Step(_model(state, argument, models()))
        case unknown:
            done = Step(f"there is no /{unknown}; /help lists the commands")
    return done


def _system(state: Conversation, argument: str) -> str:
    if not argument:
        return f"system: {state.system}" if state.system else "there is no system message"
    state.system = "" if argument == "-" else argument
    return "system message set" if state.system else "system message removed"


def _model(state: Conversation, wanted: str, served: list[str]) -> str:
    if not wanted:
        return "\n".join(f"{'*' if name == state.model else ' '} {name}" for name in served)
    if wanted not in served:
        return f"there is no {wanted!r}; there is: {', '.join(served)}"
    state.model = wanted
    return f"asking {wanted}"
