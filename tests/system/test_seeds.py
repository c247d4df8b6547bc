import threading

import torch

from clipfeat.system.seeds import seeded


def test_threads_at_once_draw_what_each_would_alone():
    with seeded(3):
        expected = torch.rand(4)
    found, both = [], threading.Barrier(2)

    def draw():
        both.wait()
        for _ in range(50):
            with seeded(3):
                found.append(torch.cat([torch.rand(1) for _ in range(4)]))

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 100
    assert all(torch.equal(one, expected) for one in found)


def test_the_caller_s_generator_goes_on_as_if_nothing_had_been_drawn():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(2):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)
