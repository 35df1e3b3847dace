"""What the recipes share: command line, data, batches, model, run folder, metrics. Each file has one job."""
