"""Simulated cohorts with known truth: a pelvis on a mm grid, ultrasound, MRI and CT of it, written as DICOM.

Physics in, DICOM out; this package knows nothing of training.
"""
