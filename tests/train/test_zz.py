def test_x(world):
    prepared, outcome, events = world.train(world.model(), world.stage())
    print(outcome, events)
