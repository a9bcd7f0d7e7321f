"""A real Prometheus with frazil's own configuration, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

__all__ = ["PrometheusProcess"]

DEPLOY = Path(__file__).resolve().parents[1] / "deploy" / "prometheus"


class PrometheusProcess:
    """A Prometheus that scrapes as long as this is open.

    Args:
        program: ``prometheus``, of Debian or its own release.
        targets: addresses of daemons, by the names of their microscopes.
        folder: for its configuration and data.
        interval: between two scrapes and two evaluations of the rules, in Prometheus' words.

    Attributes:
        url: where it answers.
    """

    def __init__(self, program: str, targets: Mapping[str, str], folder: Path, interval: str = "1s") -> None:
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))
        config["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
        config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        named = [{"targets": [address], "labels": {"microscope": name}} for name, address in targets.items()]
        (folder / "frazil-targets.yml").write_text(yaml.safe_dump(named))
        self._command = [
            program,
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
        ]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        log = []
        for line in self._process.stderr:
            log.append(line)
            if found := re.search(r'msg="Listening on" address=(\S+)', line):
                self.url = f"http://{found[1]}"
            if "Server is ready" in line:
                break
        else:
            raise RuntimeError("Prometheus did not start:\n" + "".join(log))
        self._reader = threading.Thread(target=self._process.stderr.read)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its HTTP API."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=300) as answer:
            return json.load(answer)["data"]

    def has(self, expression: str) -> bool:
        """Whether there is a result, and not only NaN."""
        return any(result["value"][1] != "NaN" for result in self.ask("query", query=expression)["result"])

    def values(self, expression: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The results, by the values of these labels."""
        results = self.ask("query", query=expression)["result"]
        return {tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1]) for one in results}
