"""The sentences of a comparison and of a diagnosis, made from values. Nothing reads them but people."""
