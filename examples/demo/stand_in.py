"""What answers in the demo when there is no key for a model: rules, nothing more, so that it is the same every time.

It does what the prompt says in one point, the length of the reply, which is what the demo changes.
"""

from stepwell.testing.provider import Asked, Say, say

URGENT = ("before friday", "today", "immediately", "urgent", "as soon as")
TEAMS = {"billing": ("payment", "charged", "invoice"), "delivery": ("parcel", "lost", "late"), "technical": ()}


def answer(asked: Asked) -> Say:
    prompt, ticket = (message["content"] for message in asked.json["messages"])
    fields = dict(line.split(": ", 1) for line in ticket.splitlines()[:2])
    words = ticket.lower()
    name = fields["From"].split()[0]
    sentences = [
        f"Dear {name}, thank you for telling us.",
        "The second payment will be back with you before Friday.",
        "We are sorry for the trouble.",
    ]
    return say(
        json={
            "title": fields["Subject"],
            "urgency": "high" if any(word in words for word in URGENT) else "normal",
            "team": next(team for team, signs in TEAMS.items() if not signs or any(sign in words for sign in signs)),
            "reply": f"{name}: {sentences[1]}" if "one kind sentence" in prompt else " ".join(sentences),
        },
        pause_s=0.04,
    )
