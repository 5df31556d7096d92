"""DICOM, one file per question to it. Texts of a file, which can name a patient, do not leave this room but as keys."""
