"""A guide model in a real server: the bundled student, guided by the bundled autoregressive model."""

from pathlib import Path

from cdlm.cli.eval.sets import is_right
from cdlm.model.assets import BUNDLED_STUDENT
from cdlm.training.data.mixture import draw_problems
from tests.support.server.served import running_server

GUIDE = BUNDLED_STUDENT.parent / "cdlm-nano-autoregressive"


def test_a_guided_student_solves_problems_in_fewer_steps_than_by_its_threshold(tmp_path: Path) -> None:
    problems = draw_problems("words", 10, seed=0)
    with running_server(tmp_path / "log", "--guide-model", str(GUIDE)) as server:
        found = {}
        for rule in ("guide", "threshold"):
            answers = [
                server.complete(prompt=problem.prompt, max_tokens=256, temperature=0, decoding=rule)
                for problem in problems
            ]
            right = [
                is_right(problem, answer["choices"][0]["text"])
                for problem, answer in zip(problems, answers, strict=True)
            ]
            found[rule] = (sum(right), sum(answer["usage"]["denoise_steps"] for answer in answers))
    assert found["guide"][0] >= 8
    assert found["guide"][1] < found["threshold"][1]
