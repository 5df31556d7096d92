"""What a source is: one file, a DICOM series, a record of several files; what the owner's table says of it."""
