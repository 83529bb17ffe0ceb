END { }
