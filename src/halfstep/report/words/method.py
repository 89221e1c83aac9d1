"""How each figure of a comparison was measured or computed."""

from __future__ import annotations

from halfstep.comparison.rows import WARMUP
from halfstep.comparison.statistics.ratios import FASTEST_UNITS
from halfstep.comparison.statistics.sequential import LOOKS

#: the first entry of a comparison that is looked at again and again
LOOKS_METHOD = (
    "Looks",
    "with --budget, or more seeds or repeats on --resume, verdicts may be looked at after every trial. Ratios and "
    f"differences are looked at after {', '.join(map(str, LOOKS[:-1]))} and {LOOKS[-1]} pairs of trials: paired t "
    "tests of the blocks, whose levels are 5 % over all looks, precisions and figures together. Intervals are "
    "what all looks so far have in common, and hold at once. A figure without any spread is decided by equality. "
    "This replaces the tests and levels named below for ratios, quality, equivalence and the run, whose parts then "
    "have no band",
)

#: (figure, how it was measured or computed)
METHOD = [
    ("Step time", "time between the ends of two optimizer steps, on the host's clock (on a GPU: CUDA events), after "
     "the warm-up; of one trial the median step with the 95 % interval of the median by order statistics, of several "
     "the geometric mean of their medians, with Student's t of these, never narrower than the steps within them allow"),
    ("Spread", "of step times, ratios and differences the figures beside are 95 % intervals; of peak memory and "
     "joules per step they are the lowest and the highest of the trials, of final values those of the seeds; of one "
     "value there is none"),
    ("Speed ratio", "the baseline's step time over this precision's, trials interleaved; 95 % interval by Student's t "
     "of the runs' medians, never narrower than a moving-block bootstrap of the steps within them. One trial on a side "
     "has no interval: how trials differ is not known. 'not significant' where it includes 1"),
    ("Most a precision can gain", f"products {FASTEST_UNITS} times as fast, as on the fastest units there are, and all "
     "else twice, by the shares of the baseline's profiled step: a larger gain is something else's, and not advised"),
    ("Memory and energy ratios", "geometric means of the trials' peaks and joules per step, this precision's over the "
     "baseline's; 95 % interval by Welch's t of their logarithms, from two trials on either side"),
    ("Disturbed trials", "those whose threads waited for a processor in 10 % of the time in which they had work (by "
     "the kernel's run delay) while other processes took 10 % of the processors; or in 15 %, and more than twice as "
     "often as in the quietest trial. Their step times are left out of the speed ratio; where a side has no others, "
     "the ratio has no interval. With several repeats they are run once more, unless half of all were disturbed"),
    ("Drift", "the seasonal Kendall test (Hirsch, Slack & Smith 1982), exact: of the trials' medians in the order they "
     "ran, precisions as strata, and of six parts of each trial; the rise is Theil and Sen's median slope"),
    ("Warm-up", f"the first {WARMUP} steps of a trial (fewer in a short run) are left out; the second and the third "
     "are looked at closely, which makes them slower"),
    ("Peak memory", "on a GPU the allocator's peak; on a CPU the largest resident set after the warm-up over the one "
     "just after the framework was imported; over several ranks the sum"),
    ("Where memory goes", "bytes of weights, gradients and optimizer state, and of the tensors that the graph keeps "
     "for the backward pass, in one step; workspace is the allocator's peak less all these"),
    ("What ran", "FLOPs of the matrix products, convolutions and attention of one step, by the dtype of the operands "
     "that the kernel was given"),
    ("What is stored", "bytes by format of the trained weights and of the frozen ones of the modules that were called, "
     "of the gradients at the end of the sampled step, and of the optimizers' state; shared memory counts once, "
     "sharded tensors with the part that lies in each process; over several ranks the sum"),
    ("Loss", "the sum of what backward was called on between two steps; the final loss is the mean over the last tenth "
     "of the steps"),
    ("Quality", "precision and seed crossed: each seed's final value less the baseline's on the same seed; worse or "
     "better where the paired t test, Holm-adjusted over the precisions, is below 5 %; intervals are 95 %; "
     "what would have been seen is at 80 % power; from 6 seeds the exact sign-flip test and Hartigan's interval stand "
     "beside it. One seed has no noise to compare with"),
    ("Equivalent", "two one-sided paired t tests at 5 % each; the margin is --tolerance, or the baseline's standard "
     "deviation from seed to seed at the lower end of its one-sided 95 % interval, as few seeds estimate it loosely"),
    ("Over the run", "the mean of the difference over all steps (the area between the curves), by the same tests; and "
     "the run in ten parts with a band that holds for all at once: the largest t of sign flips (Westfall-Young), below "
     "6 seeds Bonferroni's. Everything but the first figure's final value is one more family for Holm"),
    ("Logged figures", "as the loss; a final value is the mean of the last tenth of what was logged; lower is better "
     "for names of losses and errors, higher for accuracies and scores; other names differ, or do not"),
    ("Samples per second", "the first dimension of what the model was first called on after each backward pass"),
    ("Energy", "counters of the hardware (NVML for all GPUs that the program sees; RAPL for packages and memory) from "
     "the end of the warm-up to the end of the program; joules per step from there to the last reading at the end of a "
     "step, one reading per second, over 5 s or more on a GPU. The whole device is counted, other programs on it too. "
     "Idle watts: the same counters for 6 s before the first trial"),
    ("Where time goes", "PyTorch's profiler in the third step, which it makes slower: no step time has it; "
     "on a CPU every instant belongs to the innermost operation, on a GPU to the kernel that runs; shares sum to one. "
     "Seconds are these shares of the median step"),
]  # fmt: skip
