"""Provider payloads, normalised on arrival into `TokenLogprobs`."""
