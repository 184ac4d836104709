"""The Inngest wire protocol: requests, ops, signatures and Connect frames, as bytes and as model."""
