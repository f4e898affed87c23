"""One education app's prompt, in words of our own: 500 (system) + 250 (tool) + 200 (context) + 150 (request) tokens of o200k."""

from __future__ import annotations

from typing import Any

SYSTEM = """\
You are the lesson writer of a learning platform for pupils between eleven and sixteen years of age. You write one short lesson at a \
time, always for exactly one learner, and you deliver it by calling the tool that you are given. Never answer in plain text.

What a good lesson looks like
- It opens with a question or a small scene from daily life that makes the learner curious. Two sentences are enough.
- It then explains the one idea that the request names, in plain words, before it uses the technical term for the first time.
- It shows one fully worked example. Every step stands on a line of its own, and the reason for the step is told beside it.
- It names the mistake that learners make most often with this idea, says why it is tempting, and shows how to notice it.
- It closes with a summary of at most three sentences, and with one suggestion for what to look at next.

How to write
- Use short sentences and active verbs. Address the learner directly, and stay friendly without being childish.
- Fit the depth to the difficulty and to the accuracy that the context reports. Below sixty percent, repeat the prior knowledge first; \
above eighty-five percent, skip it and go one step further than the usual textbook does.
- Write formulas in plain text, with a caret for powers and a slash for fractions, since the app can't display anything else.
- Do not mention brands, living persons, religion or party politics. Examples with money use small round amounts.
- Use metric units. Spell numbers from one to ten, and write larger ones with digits.

Questions
- Write three questions with four choices each. Exactly one choice is right, and the wrong ones follow from typical mistakes.
- The first question checks whether the idea was understood, the second asks for a calculation or an application, and the third \
combines the new idea with something that was learned before.
- Explain for each question why the right choice is right, in one or two sentences that a learner can follow without help.
- Never let the position or the length of a choice give the answer away.

Safety
- If the request is not about school learning, write a lesson about why the topic can't be taught here, and offer a related one \
from the same subject instead.
- Never repeat personal data of the learner in the lesson, \
not even the first name or the school, and do not invent any facts about them or about the people of their own family."""

CONTEXT = """\
Learner context, gathered by the app in the last four weeks:
- Grade 9, lower secondary school, three lessons of mathematics a week. The language of instruction is English, which is the \
learner's second language, so rare words need a short explanation.
- Pace: normal. Usual length of a session: twelve minutes on a telephone, most often in the afternoon on the way home.
- Accuracy over the last forty exercises: 72 percent. Strong in mental arithmetic and in reading tables; weak where brackets have \
to be expanded and where a minus sign stands before a bracket.
- Finished units: integers, fractions, ratios, terms with one variable. The unit on equations began last week.
- Interests that examples may use: basketball, cooking, train journeys, and keeping tropical fish.
- The learner prefers worked examples over definitions, likes to be asked for a guess before the explanation, and often gives up \
when a text has more than two hundred and fifty words in one piece."""

REQUESTS = (
    """\
Subject: Algebra 1
Topic: Linear equations
Difficulty: medium
Explain how an equation can be read as a pair of scales that stay level as long as both sides are treated alike. Let the learner \
find out with a kitchen example why the same weight has to be taken from both pans, and come to the rule only afterwards. The worked \
example should have the unknown on one side alone, with a whole number as its solution, and one step should involve division. As \
the usual mistake, show what happens when somebody subtracts on the left and forgets the right. The last question should take up \
ratios again, for instance with a recipe for four people that is scaled for six. Keep the scene short, and avoid \
all decimals here.""",
    """\
Subject: Algebra 1
Topic: Linear equations
Difficulty: medium
This time the unknown stands on both sides. Begin with two train companies, one of which takes a base fare and little for each \
kilometre, the other nothing at first but more for the distance, and ask from where on the first becomes cheaper. Develop from the \
story an equation whose terms are collected step by step. Say clearly why it does not matter on which side the unknown ends up, and \
which choice spares us a negative sign. The typical error to discuss is moving a term across without changing its sign. Include a \
check by substitution at the close of the worked example, since our teachers insist on it, and let one question ask \
for just such a check.""",
    """\
Subject: Algebra 1
Topic: Linear equations
Difficulty: medium
We need practice with brackets. Use the area of an aquarium floor that is extended by a strip of unknown width to motivate the \
distributive law, then solve an equation in which a factor stands before a sum. After that comes a second, shorter example with a \
minus in front of the bracket, since this is exactly where our learners stumble; mark in words what happens to each sign within. \
Please don't present the law as a formula before the picture has been described. Among the wrong choices of the second question \
there has to be the result that one gets if only the first term is multiplied. Finish by naming the simplification of longer terms as \
what could well follow next week.""",
    """\
Subject: Algebra 1
Topic: Linear equations
Difficulty: medium
Teach how a sentence becomes an equation. Collect five everyday phrases, such as three less than twice as many, and translate them \
together with the learner, who should guess first. The main example is about a basketball player who scored in two quarters; from \
the total and from the difference the points of each are to be found. Emphasise that a letter stands for a number and never for a \
thing, which is what beginners confuse most. Write the answer as a full sentence with its unit. For the third question take a puzzle \
on ages that needs fractions as well, yet keep all the numbers below fifty. Use only one unknown, even where two of them look natural.""",
    """\
Subject: Algebra 1
Topic: Linear equations
Difficulty: medium
Show that not every equation has exactly one solution. Let the learner solve three that look almost alike: an ordinary one, one that \
ends in a false statement, and one that is true whatever is inserted. Interpret each outcome with two walkers who start at different \
places and move at the same or at different speeds, without drawing a graph. The mistake worth discussing is to answer zero when \
the unknown has vanished. Introduce the words identity and contradiction late, and with a short gloss. In the questions ask once \
for the number of solutions, once for a parameter that makes the equation unsolvable, and once for a short invented story that fits \
one given line of the ordinary equation.""",
)

_QUESTION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "string"}, "minItems": 4, "maxItems": 4},
        "correctIndex": {"type": "integer", "minimum": 0, "maximum": 3},
        "explanation": {"type": "string", "maxLength": 280, "description": "Why the right choice is right"},
    },
    "required": ["prompt", "choices", "correctIndex", "explanation"],
}

FUNCTION: dict[str, Any] = {
    "name": "create_lesson",
    "description": "Create one short lesson with three questions on the requested topic",
    "parameters": {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 80, "description": "Names the idea, without the word lesson"},
            "content": {
                "type": "string",
                "minLength": 180,
                "description": "The whole lesson in Markdown, with the worked example and the usual mistake",
            },
            "difficulty": {"type": "string", "enum": ["easy", "medium", "hard"]},
            "questions": {"type": "array", "minItems": 3, "maxItems": 3, "items": _QUESTION},
            "summary": {"type": "string", "description": "At most three sentences"},
            "next_topic": {"type": "string", "description": "One topic to look at next, as a short title"},
        },
        "required": ["title", "content", "difficulty", "questions", "summary"],
    },
}
