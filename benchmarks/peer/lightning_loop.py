"""Lightning's Trainer against the bare loop: `python lightning_loop.py ROUNDS STEPS`.

Alone nothing is logged, shown or saved. With everything that marrow has on: a learning-rate schedule, a log line each ten
steps, a progress bar, an average of the weights, and a checkpoint each second. It does not look at the loss.
"""

import json
import logging
import sys
import tempfile
import time
import warnings
from datetime import timedelta

import torch
import torch.nn.functional as F
from lightning import Callback, LightningModule, Trainer, __version__
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from loop_bare import DECAY, LOG_EVERY, SAVE_SECONDS, Timed, bare, in_turns, sgd


class Classify(LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def training_step(self, batch, index):
        x, label = batch
        return F.cross_entropy(self.net(x), label)

    def configure_optimizers(self):
        return sgd(self)


class LoggedClassify(Classify):
    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.log("cross_entropy", loss)
        return loss

    def configure_optimizers(self):
        optimizer = sgd(self)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": constant, "interval": "step"}}


class Clock(Callback):
    """Seconds from the first step to the last, without what comes before and after."""

    def on_train_start(self, trainer, module):
        self.began = time.perf_counter()

    def on_train_end(self, trainer, module):
        self.seconds = time.perf_counter() - self.began


def fit(module, batches, steps, callbacks=(), **options):
    clock, batches = Clock(), Timed(batches)
    trainer = Trainer(accelerator="cpu", devices=1, max_steps=steps, enable_model_summary=False,
                      callbacks=[clock, *callbacks], **options)  # fmt: skip
    trainer.fit(module, batches)
    return clock.seconds - batches.seconds


def alone(model, batches, steps):
    return fit(Classify(model), batches, steps, logger=False, enable_checkpointing=False, enable_progress_bar=False)


def everything(model, batches, steps):
    with tempfile.TemporaryDirectory() as folder:
        kept = ModelCheckpoint(folder, train_time_interval=timedelta(seconds=SAVE_SECONDS))
        logger = CSVLogger(folder, flush_logs_every_n_steps=LOG_EVERY)
        return fit(LoggedClassify(model), batches, steps, [kept, EMAWeightAveraging(decay=DECAY)], logger=logger,
                   log_every_n_steps=LOG_EVERY)  # fmt: skip


def main():
    rounds, steps = int(sys.argv[1]), int(sys.argv[2])
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")  # on the number of workers, which read rows that are ready-made
    found = in_turns({"bare": bare, "Lightning Trainer alone": alone, "Lightning Trainer": everything}, rounds, steps)
    print(json.dumps({"rounds": found, "versions": {"lightning": __version__, "torch": torch.__version__}}))


if __name__ == "__main__":
    main()
