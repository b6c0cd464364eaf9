"""NSGA-II: a population that spreads along the Pareto front of several objectives.

Deb et al. 2002, A Fast and Elitist Multiobjective Genetic Algorithm.
"""

from optuna.samplers import NSGAIISampler

from optimizer.engines.genetic import genetic

build = genetic("nsga2", NSGAIISampler)
