"""One module per public data set: each turns the files as published into a manifest."""
