"""The parts of the stand-in for VASP; numpy is all it imports, so that it starts fast."""
