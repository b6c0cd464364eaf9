"""NSGA-III: a population spread along the Pareto front by reference points, for four objectives and more.

Deb and Jain 2014, An Evolutionary Many-Objective Optimization Algorithm Using Reference-Point-Based Nondominated
Sorting Approach, part I.
"""

from optuna.samplers import NSGAIIISampler

from optimizer.engines.genetic import genetic

build = genetic("nsga3", NSGAIIISampler)
