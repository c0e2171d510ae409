"""Posts that look like tweets, with their entities: the text of the sample data set, drawn from a seeded generator.

In an ambiguous post the words around a name leave its type open, so that only a picture can tell it; in a plain post
they tell it. `sample.dataset` decides which picture goes with which post, and what in it tells the type.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

TYPES = ("PER", "LOC", "ORG", "MISC")

# Names that the world gives to more than one kind of thing. The second list occurs in the test split alone.
AMBIGUOUS = (
    "Jordan", "Paris", "Phoenix", "Chelsea", "Lincoln", "Florence", "Austin", "Sydney", "Madison", "Orlando",
    "Washington", "Mercedes", "Victoria", "Apollo", "Dakota", "Georgia", "Charlotte", "Brooklyn", "Hudson", "Morgan",
    "Columbia", "Genesis", "Aurora", "Dallas", "Atlas", "Mercury", "Sierra", "Valencia",
    "Santa Rosa", "San Marino", "New Haven", "El Dorado", "Saint Laurent", "Red Rock",
)  # fmt: skip
AMBIGUOUS_UNSEEN = ("Virginia", "Saturn", "Bristol", "Everest", "Luna Park", "Milan", "Nova Scotia", "Titan")

FIRST = ("Maria", "Luis", "Emma", "Ahmed", "Chloe", "Kenji", "Olga", "Pedro", "Nadia", "Marcus", "Priya", "Sven")
LAST = (
    "Lopez", "Carter", "Okafor", "Novak", "Tanaka", "Dubois", "Singh", "Weber", "Haddad", "Murphy", "Silva", "Petrov",
)  # fmt: skip
UNSEEN_LAST = ("Kowalski", "Ferreira", "Lindqvist", "Mbeki", "Delacroix", "Yamada")

UNAMBIGUOUS: dict[str, tuple[str, ...]] = {
    "LOC": (
        "Lisbon", "Nairobi", "Oslo", "Quito", "Hanoi", "Toronto", "Marseille", "Lagos", "Kyoto", "Glasgow", "Bogota",
        "Buenos Aires", "Cape Town", "Rio Grande", "South Harbor", "Mount Kenya",
    ),
    "ORG": (
        "Zentech", "Globarix", "Norvik Bank", "Belden FC", "Quantel", "Ostrava United", "Pinnacore", "Lumio",
        "Telforce", "Harrow Motors", "Vexa", "Kestrel Air", "Dynafoods", "Brightwell", "Redfern Rovers", "Papyrus Inc",
    ),
    "MISC": (
        "Galaxy Hearts", "Crown of Ash", "Dragonfall", "Midnight Bakers", "Starforge", "Pixel Racer", "Iron Lullaby",
        "The Last Orchard", "Neon Samurai", "Wolfsong", "Turbo Penguins", "Moonbound", "Casa Vacia", "Les Ombres",
        "Grand Slam 9", "Kingmaker",
    ),
}  # fmt: skip
UNAMBIGUOUS_UNSEEN: dict[str, tuple[str, ...]] = {
    "LOC": ("Tallinn", "Medellin", "Accra", "Lake Geneva", "Port Hope", "Adelaide"),
    "ORG": ("Fluxora", "Hexagon Bank", "Marlow Rovers", "Telvanta", "Nimbus Air", "Grovetech"),
    "MISC": ("Velvet Comet", "Hollow Pines", "Sugar Rush Hour", "Ninja Gardeners", "Red Lanterns", "Skyward 2"),
}

UNSEEN_WORDS = frozenset(
    word
    for names in (AMBIGUOUS_UNSEEN, UNSEEN_LAST, *UNAMBIGUOUS_UNSEEN.values())
    for name in names
    for word in name.split(" ")
)

# Clauses that fit a name of any type. {X} and {Y} are of one type.
OPEN = (
    "{X} is everything right now", "ca n't stop thinking about {X}", "finally {X} !", "so much love for {X} today",
    "one more pic of {X}", "{X} again", "throwback to {X}", "mood : {X}", "who else loves {X} ?",
    "do n't sleep on {X}", "{X} never disappoints", "ok this is {X} , enough said", "still not over {X}",
    "everyone keeps talking about {X}", "honestly {X} deserves better", "nothing beats {X}", "day 3 with {X}",
    "{X} has my heart", "what do you think about {X} ?", "I will always defend {X}", "my love for {X} is real",
    "here we go , {X}", "remember {X} ? good times", "{X} trending again , of course", "a little bit of {X} for you",
    "{X} looks amazing today", "how good is {X} ?", "never heard of {X} before", "best of {X} , a thread",
    "otra vez {X}", "me encanta {X} , la verdad", "{X} siempre en mi corazón", "todo el mundo habla de {X}",
    "encore {X} ce matin", "j' adore {X} , vraiment", "{X} me manque tellement", "on parle de {X} partout",
)  # fmt: skip
OPEN_PAIR = (
    "{X} and {Y} , what a week", "{X} or {Y} ? you decide", "first {X} , then {Y}", "{X} > {Y} and it is not close",
    "{X} , {Y} , repeat", "some {X} and a bit of {Y}", "if you like {X} try {Y}", "{X} y {Y} , nada más",
    "{X} et {Y} , rien que ça",
)  # fmt: skip

# Clauses whose words tell the type.
TELLING: dict[str, tuple[str, ...]] = {
    "PER": (
        "happy birthday to {X} , she is 30 today", "my cousin {X} got married", "singer {X} cried on live tv",
        "prayers for {X} and his family", "{X} said he will retire in june", "coach {X} was furious at the ref",
        "selfie with {X} after the show", "got a hug from {X} today", "actor {X} signed my shirt",
        "{X} broke his leg in training", "interview with {X} about her new album", "RIP {X} , he was a legend",
        "felicidades a {X} por su hijo", "la chanteuse {X} a perdu sa voix", "el abuelo {X} cuenta chistes",
        "{X} scored twice and kissed his wife", "senator {X} refused to answer", "thank you {X} for your kind words",
    ),
    "LOC": (
        "just landed in {X}", "driving through {X} at dawn", "rain all day in {X}", "lost in the streets of {X}",
        "earthquake felt near {X}", "moving to {X} next month", "cheap flights to {X}", "the mayor of {X} resigned",
        "north of {X} the road is closed", "sunset over {X} is unreal", "a week of hiking around {X}",
        "aterrizando en {X} por fin", "il pleut encore à {X}", "vivir en {X} es caro", "born and raised in {X}",
        "roads flooded across {X}", "best tacos in {X} ?", "train from {X} is late again",
    ),
    "ORG": (
        "{X} shares fell 5 % today", "{X} is hiring 200 engineers", "the CEO of {X} resigned",
        "{X} signed a new striker", "lawsuit filed against {X}", "{X} quarterly profits are up",
        "started my new job at {X}", "las acciones de {X} suben", "{X} annonce des licenciements",
        "customer service at {X} hung up on me", "{X} buys a rival for 2 billion", "union workers at {X} on strike",
        "relegation for {X} after losing 4 - 0", "employees of {X} walked out", "{X} stock split announced",
        "{X} opens a new factory", "el director de {X} dimite", "{X} recalls 10,000 toasters",
    ),
    "MISC": (
        "season finale of {X} tonight", "episode 4 of {X} broke me", "just read chapter 3 of {X}",
        "the {X} trailer is out", "playing {X} on my console", "binge watching {X} all weekend",
        "{X} soundtrack on repeat", "viendo el estreno de {X}", "fini le tome 2 de {X}",
        "the sequel to {X} is worse", "level 9 of {X} is impossible", "box office record for {X}",
        "{X} dvd for 5 bucks", "spoilers for {X} ahead", "the plot of {X} makes no sense",
        "who wrote the script of {X} ?", "la saison 2 de {X} arrive", "finished the {X} trilogy",
    ),
}  # fmt: skip

OPENERS = (
    "omg", "lol", "breaking :", "wow", "ok so", "hey", "guys", "not gonna lie ,", "good morning !", "so", "well ,",
    "pues", "bon ,", "update :", "ugh", "yes !",
)  # fmt: skip
CLOSERS = (
    "smh", "lol", "see you soon", "can't wait", "no words", "tbh", "have a great day", "so proud", "jajaja", "mdr",
    "thoughts ?", "pls retweet", "follow for more", "wish you were here", "what a time", "!", "! !", "...",
)  # fmt: skip
HASHTAGS = (
    "#tbt", "#love", "#MondayMotivation", "#news", "#blessed", "#nofilter", "#weekend", "#FF", "#vibes", "#win",
    "#feliz", "#bonheur", "#photo", "#goals", "#nowplaying", "#TGIF",
)  # fmt: skip
EMOJI = ("😂", "😍", "🔥", "❤️", "🙌", "😭", "👏", "🎉", "💯", "✨", "😎", "🙏")
HANDLES = (
    "jess", "mike", "la_nena", "the_real_sam", "bigdog", "cafe", "lulu", "xo_kim", "dj_rob", "newsbot", "paulo",
    "marie", "skater", "fan", "ritmo", "daily",
)  # fmt: skip
SLANG = {
    "you": "u", "your": "ur", "thank": "thx", "the": "teh", "about": "abt", "with": "w/", "love": "luv", "for": "4",
    "to": "2", "today": "2day", "what": "wat", "before": "b4",
}  # fmt: skip
URL_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True)
class Post:
    """Tokens with IOB2 labels; `open_type` is the type that the words of an ambiguous post leave open, else None."""

    tokens: list[str]
    labels: list[str]
    open_type: str | None
    telling_type: str | None = None  # the type of a plain post's first entity


class Deck:
    """Draws without replacement and shuffles again when empty, so that counts stay even in small samples."""

    def __init__(self, values: Sequence[str], rng: random.Random):
        self.values, self.rng = list(values), rng
        self.left: list[str] = []

    def draw(self) -> str:
        if not self.left:
            self.left = self.rng.sample(self.values, len(self.values))
        return self.left.pop()


@dataclass
class Names:
    """The names of one split: ambiguous ones with the types they still have to take, and those of one type."""

    rng: random.Random
    ambiguous: Sequence[str] = AMBIGUOUS
    unambiguous: dict[str, tuple[str, ...]] = field(default_factory=lambda: UNAMBIGUOUS)
    last: Sequence[str] = LAST
    invented: float = 0.0  # share of the names that are made up on the spot
    known: float = 0.0  # share of the names in open clauses that are of one type all the same

    def __post_init__(self) -> None:
        self._deck = Deck(self.ambiguous, self.rng)
        self._types = {name: Deck(TYPES, self.rng) for name in self.ambiguous}

    def open_name(self) -> tuple[str, str]:
        """A name and the type that it takes this time; each name goes through all types evenly."""
        name = self._deck.draw()
        kind = self._types[name].draw()
        return self._replaced(name, kind), kind

    def another(self, name: str, kind: str) -> str:
        """A name other than `name`, to take the same type."""
        while (other := self._deck.draw()) == name:
            pass
        return self._replaced(other, kind)

    def _replaced(self, name: str, kind: str) -> str:
        draw = self.rng.random()
        if draw < self.invented:
            return invent(self.rng)
        return self._one_type(kind) if draw < self.invented + self.known else name

    def plain_name(self, kind: str) -> str:
        """A name for a clause that tells its type: mostly of that type alone, at times an ambiguous one."""
        draw = self.rng.random()
        if draw < self.invented:
            return invent(self.rng)
        return self.rng.choice(self.ambiguous) if draw > 0.8 else self._one_type(kind)

    def _one_type(self, kind: str) -> str:
        if kind == "PER":
            first, last = self.rng.choice(FIRST), self.rng.choice(self.last)
            return self.rng.choice((first, f"{first} {last}", f"{first} {last}"))
        return self.rng.choice(self.unambiguous[kind])


def names_of_test(rng: random.Random) -> Names:
    """The names of the test split: those of train, and more that train does not have."""
    unambiguous = {kind: UNAMBIGUOUS[kind] + UNAMBIGUOUS_UNSEEN[kind] for kind in UNAMBIGUOUS}
    return Names(rng, AMBIGUOUS + AMBIGUOUS_UNSEEN, unambiguous, LAST + 3 * UNSEEN_LAST)


def invent(rng: random.Random) -> str:
    """A made-up name of one or two capitalised words, none of them a word of the names that only the test split has."""
    onsets, vowels, codas = ("b", "d", "f", "k", "l", "m", "n", "r", "s", "t", "v", "br", "ch", "st"), "aeiou", "lnrs"
    words: list[str] = []
    wanted = rng.choice((1, 1, 2))
    while len(words) < wanted:
        syllables = [rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.randint(1, 3))]
        word = ("".join(syllables) + rng.choice(codas)).capitalize()
        if word not in UNSEEN_WORDS:
            words.append(word)
    return " ".join(words)


def ambiguous_post(names: Names) -> Post:
    """A post with one or two names whose type its words leave open, at times with a clause that tells another name's.

    Both open names have the one type, `open_type`: there is one picture to tell it.
    """
    rng = names.rng
    name, kind = names.open_name()
    if rng.random() < 0.3:
        clause, slots = rng.choice(OPEN_PAIR), {"X": (name, kind), "Y": (names.another(name, kind), kind)}
    else:
        clause, slots = rng.choice(OPEN), {"X": (name, kind)}
    clauses = [_clause(rng, clause, slots)]
    if rng.random() < 0.3:
        clauses.append(_telling(names, rng.choice(TYPES)))
        rng.shuffle(clauses)
    return Post(*_tweet(rng, clauses), open_type=kind)


def plain_post(names: Names) -> Post:
    """A post of one or two clauses, each of which tells the type of its name."""
    rng = names.rng
    kind = rng.choice(TYPES)
    clauses = [_telling(names, kind)]
    if rng.random() < 0.35:
        clauses.append(_telling(names, rng.choice(TYPES)))
    return Post(*_tweet(rng, clauses), open_type=None, telling_type=kind)


Labelled = tuple[list[str], list[str]]


def _telling(names: Names, kind: str) -> Labelled:
    return _clause(names.rng, names.rng.choice(TELLING[kind]), {"X": (names.plain_name(kind), kind)})


def _clause(rng: random.Random, template: str, slots: dict[str, tuple[str, str]]) -> Labelled:
    tokens: list[str] = []
    labels: list[str] = []
    for word in template.split(" "):
        if word.startswith("{"):
            name, kind = slots[word[1:-1]]
            parts = name.split(" ")
            tokens += parts
            labels += [f"B-{kind}"] + [f"I-{kind}"] * (len(parts) - 1)
        else:
            tokens.append(_misspell(rng, word) if rng.random() < (0.15 if word in SLANG else 0.05) else word)
            labels.append("O")
    return tokens, labels


def _misspell(rng: random.Random, word: str) -> str:
    if word in SLANG:
        return SLANG[word]
    if len(word) < 5 or not word.isalpha():
        return word
    place = rng.randrange(1, len(word) - 1)
    match rng.randrange(3):
        case 0:
            return word[:place] + word[place + 1 :]
        case 1:
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        case _:
            return word[:place] + word[place] + word[place:]


def _tweet(rng: random.Random, clauses: Sequence[Labelled]) -> Labelled:
    """Put what tweets have around the clauses: RT, mentions, openers, closers, emoji, hashtags, a URL."""
    tokens: list[str] = []
    labels: list[str] = []

    def outside(*words: str) -> None:
        tokens.extend(words)
        labels.extend("O" for _ in words)

    if rng.random() < 0.25:
        outside("RT", _handle(rng), ":")
    elif rng.random() < 0.15:
        outside(_handle(rng))
    if rng.random() < 0.3:
        outside(*rng.choice(OPENERS).split(" "))
    for number, (words, tags) in enumerate(clauses):
        if number:
            outside(rng.choice((".", "-", "|", "&", "...", "and")))
        tokens += words
        labels += tags
    if rng.random() < 0.3:
        outside(*rng.choice(CLOSERS).split(" "))
    if rng.random() < 0.15:
        outside("cc" if rng.random() < 0.5 else "via", _handle(rng))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        outside(rng.choice(EMOJI) if rng.random() < 0.5 else rng.choice(HASHTAGS))
    if rng.random() < 0.25:
        outside("http://t.co/" + "".join(rng.choice(URL_ALPHABET) for _ in range(8)))
    if rng.random() < 0.04:
        tokens = [token.lower() for token in tokens]
    return tokens, labels


def _handle(rng: random.Random) -> str:
    return f"@{rng.choice(HANDLES)}{rng.choice(('', '', '7', '_', '88', '2010'))}"
