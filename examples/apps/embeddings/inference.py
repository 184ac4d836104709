"""Vectors of texts, by a model that `setup` makes of the sentences beside this file: no weights are downloaded.

    stepwell app deploy examples/apps/embeddings
    curl localhost:8288/apps/run -d '{"app": "examples/embeddings", "wait": true,
        "input": {"texts": ["Rain and wind", "Bring an umbrella"]}}'

It knows the words of some sixty sentences, and which of them go together (latent semantic analysis: weighed counts, and
the largest directions of them). That is enough to show what an app does, which is to load once and answer often; to
search real texts, load a trained model in `setup` in its place.
"""

import re
from pathlib import Path

import numpy as np

from stepwell.apps import Embeddings

SENTENCES = Path(__file__).with_name("sentences.txt")
WIDTH = 16
STOP = set("a an and at by for from has have in is it of on so that the then to was when with".split())


class SmallEmbeddings(Embeddings):
    async def setup(self) -> None:
        sentences = [self.terms(line) for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
        found = sorted({term for sentence in sentences for term in sentence})
        self.column = {term: number for number, term in enumerate(found)}
        counts = np.stack([self.counted(sentence) for sentence in sentences])
        self.weight = np.log(len(sentences) / (counts > 0).sum(axis=0))
        _, strength, directions = np.linalg.svd(counts * self.weight, full_matrices=False)
        self.directions = directions[:WIDTH].T  # terms by WIDTH
        self.strength = strength[:WIDTH]
        self.logger.info("%d terms of %d sentences", len(found), len(sentences))

    async def run(self, input: Embeddings.Input) -> Embeddings.Output:
        """A vector of length 1 to each text; of zeros, to a text none of whose words it knows."""
        width = min(input.dimensions or WIDTH, WIDTH)
        terms = [self.terms(text) for text in input.texts]
        vectors = np.zeros((len(terms), width))
        for vector, of_text in zip(vectors, terms, strict=True):
            vector[:] = (self.counted(of_text) * self.weight @ self.directions)[:width]
            vector /= np.linalg.norm(vector) or 1.0
        return self.Output(vectors=vectors.round(6).tolist(), tokens=sum(map(len, terms)))

    @staticmethod
    def terms(text: str) -> list[str]:
        """Its words but the most common, each by its first five letters: `travel` is `travels`."""
        return [word[:5] for word in re.findall(r"[a-z]+", text.lower()) if word not in STOP]

    def counted(self, terms: list[str]) -> np.ndarray:
        counts = np.zeros(len(self.column))
        for term in terms:
            if term in self.column:
                counts[self.column[term]] += 1
        return counts
