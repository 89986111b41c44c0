"""A page of the studio without a browser."""

import time


class Page:
  """What a page of the studio sends, and the state that it got last."""

  def __init__(self, client):
    self.client = client
    started = client.post('/studio/api/session').json()
    self.about, self.headers = started['about'], {'X-Session': started['token']}
    self.state = None

  def post(self, path, json=None, content=None, **headers):
    """Return the answer as JSON, with its status as `status`."""
    response = self.client.post(
      f'/studio/api/{path}', json=json, content=content, headers={**self.headers, **headers}
    )
    answer = response.json()
    if response.status_code == 200 and isinstance(answer, dict):
      self.state = answer
    return answer if isinstance(answer, list) else {**answer, 'status': response.status_code}

  def change(self, what, **values):
    return self.post(f'change/{what}', json=values)

  def done(self, what, **values):
    """Make a change and check that it succeeds."""
    answer = self.change(what, **values)
    assert answer['status'] == 200, answer
    return answer

  def get(self, path):
    return self.client.get(f'/studio/api/{path}', headers=self.headers)

  def wait(self):
    """Wait until no job is open; return the jobs, and renew the state."""
    for _ in range(3000):
      jobs = self.get('jobs').json()
      if all(job['status'] not in ('waiting', 'running') for job in jobs):
        self.state = self.get('state').json()
        return jobs
      time.sleep(0.01)
    raise AssertionError(jobs)
