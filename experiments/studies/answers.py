"""Who answers an ablation's question: `ablation` for AHMF, Table VI; `forms` for DSCSAN, its Table 4."""

from typing import Protocol

from experiments.config import DSCSANConfig
from experiments.studies.charts import Chart
from experiments.studies.outcome import Findings
from experiments.studies.standing import Standing
from experiments.studies.study import Spec


class Answers(Protocol):
    """What either module has."""

    QUESTION: str

    def findings(self, standing: Standing) -> Findings:
        """Tables, and what they say."""

    def drawn(self, standing: Standing) -> dict[str, Chart | None]:
        """Pictures by their names; None where there is too little for one."""


def answers(spec: Spec) -> Answers:
    """The module for what an ablation trains."""
    from experiments.studies import ablation, forms

    return forms if isinstance(spec.config.model, DSCSANConfig) else ablation
