"""The commands of ``mi-estimators`` that need more than a few lines: one module each, and what they share."""
