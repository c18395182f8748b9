"""Objectives: bounds and the estimators of their gradients."""
