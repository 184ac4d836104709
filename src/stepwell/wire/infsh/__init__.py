"""The inference.sh HTTP protocol, as bytes and as model: what is asked for, and what is answered and streamed."""
