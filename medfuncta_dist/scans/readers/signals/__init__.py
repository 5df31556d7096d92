"""One-dimensional signals: electrocardiograms in CSV, WFDB and DICOM."""
