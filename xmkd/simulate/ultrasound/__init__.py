"""Transvaginal ultrasound: beam physics, echoes of the tissues, the sliding motion, what a machine adds."""
