"""The world's search."""

from __future__ import annotations

from runtime.simulation.search import WorldSearch
from runtime.simulation.world import World

WORLD = World.generate(1, 48)


async def test_what_is_published_on_a_task_is_found_by_its_reference_best_first() -> None:
    search = WorldSearch(WORLD)
    for task in (task for task in WORLD.tasks if task.hits):
        hits = await search.search(f"{task.reference} details", 7)
        assert set(task.hits) <= set(hits)
        assert set(hits[: len(task.hits)]) == set(task.hits)
        wanted = task.hits[-1]
        assert (await search.search(wanted.title, 1)) == [wanted]


async def test_the_same_query_always_finds_the_same() -> None:
    queries = ["how a ledger is kept", WORLD.tasks[3].reference, "", "ß 東京"]
    first = [await WorldSearch(WORLD).search(query) for query in queries]
    again = [await WorldSearch(World.generate(1, 48)).search(query) for query in reversed(queries)]
    assert first == again[::-1]


async def test_no_more_hits_come_than_were_asked_for() -> None:
    search = WorldSearch(WORLD)
    assert [len(await search.search(WORLD.tasks[0].reference, limit)) for limit in (0, 1, 5, 7)] == [0, 1, 5, 7]


async def test_a_query_about_nothing_in_the_world_finds_nothing_of_it() -> None:
    published = {hit for task in WORLD.tasks for hit in task.hits}
    assert not published & set(await WorldSearch(WORLD).search("weather tomorrow"))
