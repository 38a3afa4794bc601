// One story with npm's client etcd3, for test_node_client.py: reads steps' names from the command
// line, runs them, and prints one JSON object for each. Usage: node etcd3.js ENDPOINTS STEP...
'use strict';
const { Etcd3, EtcdLeaseInvalidError, isRecoverableError } = require('etcd3');

const hosts = process.argv[2].split(',');
const client = new Etcd3({ hosts });
const next = (emitter, event) => new Promise(resolve => emitter.once(event, resolve));

const steps = {
  async kv() {
    await client.put('node/a').value('1');
    await client.put('node/b').value('2');
    const previous = await client.put('node/a').value('3').getPrevious();
    const all = await client.getAll().prefix('node/').sort('Key', 'Descend').strings();
    const limited = await client.getAll().prefix('node/').limit(1).keys();
    const count = await client.getAll().prefix('node/').count();
    const missing = await client.get('node/none').string();
    const binary = await client.put('node/bin').value(Buffer.from([0, 255, 1])).exec()
      .then(() => client.get('node/bin').buffer());
    const deleted = await client.delete().prefix('node/');
    return {
      previous: previous.value.toString(), all, limited, count, missing,
      binary: binary.toString('hex'), deleted: deleted.deleted,
    };
  },

  async txn() {
    const create = () => client.if('node/txn', 'Create', '==', 0)
      .then(client.put('node/txn').value('created'))
      .else(client.get('node/txn')).commit();
    const first = await create();
    const second = await create();
    const kv = second.responses[0].response_range.kvs[0];
    return {
      first: first.succeeded, second: second.succeeded, found: kv.value.toString(),
      sameRevision: kv.mod_revision === first.header.revision,
    };
  },

  async lease() {
    const lease = client.lease(60);
    await lease.put('node/lease').value('x');
    await lease.keepaliveOnce();
    const id = await lease.grant();
    await lease.revoke();
    const gone = await client.get('node/lease').string();
    const lost = client.lease(60);
    const lostId = await lost.grant();
    const told = next(lost, 'lost');
    await client.leaseClient.leaseRevoke({ ID: lostId });
    lost.keepaliveOnce().catch(() => undefined);
    const error = await told;
    let refused = '';
    try {
      await client.kv.put({ key: Buffer.from('node/x'), value: Buffer.from('x'), lease: '1234' });
    } catch (failure) {
      refused = failure.message;
    }
    return { id: typeof id, gone, lost: error instanceof EtcdLeaseInvalidError, refused };
  },

  async watch() {
    const events = [];
    const watcher = await client.watch().prefix('node/w/').create();
    watcher.on('put', kv => events.push(['put', kv.key.toString(), kv.value.toString()]));
    watcher.on('delete', kv => events.push(['delete', kv.key.toString()]));
    const done = new Promise(resolve => watcher.on('delete', resolve));
    for (let i = 0; i < 5; i++) await client.put(`node/w/${i}`).value(`${i}`);
    await client.delete().key('node/w/0');
    await done;
    await watcher.cancel();
    return { events };
  },

  async history() {
    const put = await client.put('node/h').value('first');
    await client.put('node/h').value('second');
    const watcher = client.watch().key('node/h').startRevision(put.header.revision).watcher();
    const seen = [];
    await new Promise(resolve => watcher.on('put', kv => {
      seen.push(kv.value.toString());
      if (seen.length === 2) resolve();
    }));
    await watcher.cancel();
    return { seen };
  },

  async lock() {
    const lock = client.lock('node/lock').ttl(10);
    await lock.acquire();
    let second = '';
    try {
      await client.lock('node/lock').acquire();
    } catch (failure) {
      second = failure.constructor.name;
    }
    await lock.release();
    const again = await client.lock('node/lock').do(async () => 'held');
    return { second, again };
  },

  async election() {
    const election = client.election('node/leader', 5);
    const campaign = election.campaign('one');
    await next(campaign, 'elected');
    const observer = await election.observe();
    const leader = observer.leader() || await next(observer, 'change');
    await campaign.resign();
    await observer.cancel();
    return { leader };
  },

  async stm() {
    await client.put('node/stm').value('0');
    const bump = () => client.stm({ retries: 100 }).transact(async tx => {
      const value = Number(await tx.get('node/stm').string());
      await tx.put('node/stm').value(String(value + 1));
    });
    await Promise.all(Array.from({ length: 5 }, bump));
    return { value: await client.get('node/stm').string() };
  },

  async errors() {
    const failures = {};
    const attempt = async (name, work) => {
      try {
        await work();
        failures[name] = 'no error';
      } catch (failure) {
        failures[name] = [failure.constructor.name, failure.message, isRecoverableError(failure)];
      }
    };
    await attempt('empty', () => client.kv.range({ key: Buffer.from('') }));
    await attempt('future', () => client.kv.range({ key: Buffer.from('a'), revision: '1000000' }));
    return failures;
  },

  // Writes numbered keys while members die; the watcher must see each exactly once, in order.
  async follow() {
    const count = 300;
    const seen = [];
    const watcher = await client.watch().prefix('node/f/').create();
    const done = new Promise(resolve => watcher.on('put', kv => {
      seen.push(kv.key.toString());
      if (kv.key.toString() === `node/f/${count}`) resolve();
    }));
    watcher.on('error', error => console.error(error.message));
    process.stdout.write(JSON.stringify({ following: true }) + '\n');
    for (let i = 1; i <= count; i++) {
      for (;;) {
        try {
          // Guarded by create = 0: a write whose answer was lost is not done twice.
          await client.if(`node/f/${i}`, 'Create', '==', 0)
            .then(client.put(`node/f/${i}`).value('x')).commit();
          break;
        } catch (failure) {
          await new Promise(resolve => setTimeout(resolve, 50));
        }
      }
    }
    await done;
    await watcher.cancel();
    return { seen };
  },
};

(async () => {
  for (const name of process.argv.slice(3)) {
    const result = await steps[name]();
    process.stdout.write(JSON.stringify({ step: name, ...result }) + '\n');
  }
  client.close();
})().catch(error => {
  console.error(error);
  process.exit(1);
});
