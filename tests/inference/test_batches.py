import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from visage.inference import chunks
from visage.inference.batches import answers, embedded, noticing, per_image
from visage.inference.chunks import CHUNK, Draws, over_chunks, shared_out
from visage.maths import noise
from visage.maths.pixels import levels
from visage.maths.ranks import Rank
from visage.maths.streams import torch_generator

CPU = torch.device("cpu")
N = 2 * CHUNK + 88
DRAWS = Draws(5, ["first", "second"])


@pytest.fixture(scope="module")
def images():
    """More than two chunks."""
    return np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), np.uint8)


class Cramped:
    """The mean level of each image and noise of either stream; has memory for `most` images at a time."""

    def __init__(self, most):
        self.most, self.tried = most, []

    def __call__(self, x, first, second):
        self.tried.append(len(x))
        drawn = noise.randn(len(x), (), first)  # before the memory runs out, as in a model
        if len(x) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return levels(x).flatten(1).mean(1) + drawn + 10 * noise.randn(len(x), (), second)


def expected(images):
    """The same for all images: every chunk has generators of its own."""
    found = []
    for start in (0, CHUNK, 2 * CHUNK):
        some = images[start : start + CHUNK]
        first, second = (torch_generator(5, f"{name} {start}") for name in ("first", "second"))
        drawn = noise.randn(len(some), (), first) + 10 * noise.randn(len(some), (), second)
        found.append(some.mean((1, 2, 3)) + drawn.double().numpy())
    return np.concatenate(found)


@pytest.mark.parametrize("most", [1000, 100, 7, 3, 1])
def test_a_batch_that_does_not_fit_is_tried_in_halves_with_the_same_noise(images, most):
    cramped = Cramped(most)
    found = per_image(cramped, images, 64, CPU, DRAWS)
    assert found == pytest.approx(expected(images), abs=1e-3)
    in_vain = [size for size in cramped.tried if size > most]
    assert in_vain == [size for size in (64, 32, 16, 8, 4, 2) if size > most]  # no size is tried twice
    assert sum(size for size in cramped.tried if size <= most) == N


def test_where_one_image_does_not_fit_there_is_nothing_to_be_done(images):
    with pytest.raises(torch.OutOfMemoryError):
        list(answers(Cramped(0), images, 4, CPU, DRAWS))


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [(100, [100, 100, 56, 100, 100, 56, 88]), (CHUNK, [CHUNK, CHUNK, 88]), (1000, [CHUNK, CHUNK, 88])],
)
def test_no_batch_reaches_into_the_next_chunk(images, batch_size, sizes):
    assert list(answers(len, images, batch_size, CPU)) == sizes
    assert per_image(Cramped(N), images, batch_size, CPU, DRAWS) == pytest.approx(expected(images), abs=1e-3)


def test_a_batch_that_is_larger_than_a_chunk_is_halved_from_the_size_that_it_has(images):
    cramped = Cramped(CHUNK // 2)
    list(answers(cramped, images, 1000, CPU, DRAWS))
    assert cramped.tried == [CHUNK, *[CHUNK // 2] * 4, 88]


def test_answers_come_in_order(images):
    found = embedded(lambda x: levels(x)[:, :, 0, 0], images, 5, CPU)
    assert np.array_equal(found, images[:, 0, 0].astype(np.float32))


def test_it_is_noticed_whether_any_of_the_generators_is_drawn_from(images):
    def ask(x, _first, second):
        return len(noise.randn(len(x), (), second)) if x[0, 0, 0, 0] > 0 else len(x)

    found = list(answers(noticing(ask), images, 1, CPU, DRAWS))
    assert found == [(1, drew) for drew in (images[:, 0, 0, 0] > 127).tolist()]


# --- ranks, here threads that exchange their answers as processes would


@pytest.fixture
def ranks(monkeypatch):
    """A function: how many ranks, what each of them runs -> what each of them found."""
    who, table = threading.local(), {}

    def run(count, work):
        barrier = threading.Barrier(count)

        def all_gather_object(found, own):
            table[who.rank.index] = own
            barrier.wait(10)
            found[:] = [table[i] for i in range(count)]
            barrier.wait(10)

        def one(index):
            who.rank = Rank(index, count)
            return work()

        monkeypatch.setattr(chunks, "here", lambda: who.rank)
        monkeypatch.setattr(chunks.dist, "all_gather_object", all_gather_object)
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))

    return run


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("n", [0, 7, CHUNK, 4 * CHUNK, 4 * CHUNK + 1])
def test_ranks_share_chunks_out_and_all_of_them_get_all_answers_in_order(ranks, count, n):
    worked_on = []

    def work(chunk):
        worked_on.append(chunk.start)
        return chunk.start, chunk.stop

    def share():
        with shared_out():
            return list(over_chunks(work, n))

    found = ranks(count, share)
    starts = range(0, n, CHUNK)
    assert sorted(worked_on) == list(starts)  # nobody does anything twice
    assert found == [[(start, min(start + CHUNK, n)) for start in starts]] * count


def test_what_is_found_does_not_depend_on_the_number_of_ranks(ranks, images):
    def share():
        with shared_out():
            return per_image(Cramped(N), images, 100, CPU, DRAWS)

    alone = per_image(Cramped(N), images, 100, CPU, DRAWS)
    assert all(np.array_equal(found, alone) for found in ranks(2, share))


def test_where_nothing_is_shared_out_a_rank_goes_through_all_images_and_waits_for_nobody(ranks, images):
    assert ranks(2, lambda: list(answers(len, images, CHUNK, CPU))) == [[CHUNK, CHUNK, 88]] * 2
