"""Every probe: rows come back, and the models it looked at are as they were."""

import json

import torch

from marrow.core.catalogue import contract_class, stems

from . import pieces


def test_probes_report_and_change_nothing():
    for stem in stems("examine"):
        cls = contract_class("examine", stem)
        models = pieces.planned_models(cls)
        before = {role: {k: v.clone() for k, v in m.state_dict().items()} for role, m in models.items()}
        modes = {role: m.training for role, m in models.items()}
        report = cls(**pieces.plain_arguments(cls)).run(models, pieces.data(cls.streams), pieces.engine())
        assert report.rows, stem
        assert json.dumps(report.rows, allow_nan=False)
        assert all(isinstance(t, torch.Tensor) for t in report.tensors.values())
        for role, m in models.items():
            assert m.training == modes[role], stem
            assert all(torch.equal(v, before[role][k]) for k, v in m.state_dict().items()), stem
