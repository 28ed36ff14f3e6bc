"""One request: where its scope opens, and the bodies by whose end its calls run."""
