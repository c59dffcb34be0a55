"""How far HELM is, as its output folder and the server's log tell."""

import time

from effchal.evaluation.helm import watch
from effchal.evaluation.helm.results import HelmRun, run_folder
from effchal.tracking import progress_tasks

OLD, NEW = '{"path": "/process", "status": 200}\n', '{"path": "/tokenize"}\n{"path": "/process"}\n'


def until(holds):
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_answers_are_counted_and_complete_runs_give_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "LOOK_S", 0.01)
    log = tmp_path / "server.log"
    log.write_text(OLD)  # of an earlier process of this run
    runs = [HelmRun("gsm", "gsm:one"), HelmRun("gsm", "gsm:two")]
    with watch.watched(tmp_path, runs, ours=True):
        (job,) = progress_tasks.running
        with log.open("a") as file:
            file.write(NEW + '{"path": "/proc')
            file.flush()
            until(lambda: job.done == 1)
            file.write('ess"}\n')
            file.flush()
            until(lambda: job.done == 2)
        assert job.estimate() == "0 of 2 runs done"
        done = run_folder(tmp_path, "gsm:one")
        done.mkdir(parents=True)
        (done / "per_instance_stats.json").touch()
        assert job.estimate() == "1 of 2 runs done, 0 s left"
        assert job.line().startswith("HELM asks: 2 requests, ")
    assert progress_tasks.running == []


def test_another_server_has_no_log_of_ours(tmp_path):
    with watch.watched(tmp_path, [HelmRun("gsm", "gsm:one")], ours=False):
        assert progress_tasks.running[0].line() == "HELM asks: 0 of 1 runs done"
