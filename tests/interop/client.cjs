// One MQTT.js client, told by its arguments what to do:
//   publish TOPIC PAYLOAD QOS RETAIN     exit code 0 when the broker has taken it
//   subscribe TOPIC QOS                  `SUBSCRIBED`, then `MESSAGE|topic|qos|retain|payload` for each message
//   will TOPIC PAYLOAD                   `SUBSCRIBED`, then waits to be killed
//   ask OPERATION JSON                   the registry's answer to it
// Environment: URL, VERSION (4 or 5), PASSWORD (of the user `tester`) or CERTIFICATE and KEY (PEM files) or neither,
// CA (a PEM file), NODE_PATH. It never lives longer than 15 seconds.

const fs = require('fs')
const mqtt = require('mqtt')

const [action, topic, ...rest] = process.argv.slice(2)
const url = process.env.URL
const options = {
  protocolVersion: Number(process.env.VERSION),
  clientId: `mqttjs-${action}-${process.pid}`,
  reconnectPeriod: 0
}
if (process.env.PASSWORD) Object.assign(options, { username: 'tester', password: process.env.PASSWORD })
if (process.env.CERTIFICATE) {
  Object.assign(options, { cert: fs.readFileSync(process.env.CERTIFICATE), key: fs.readFileSync(process.env.KEY) })
}
if (url.startsWith('mqtts:')) options.ca = fs.readFileSync(process.env.CA)
if (action === 'will') options.will = { topic, payload: rest[0], qos: 1 }

const fail = error => {
  console.error(String(error))
  process.exit(1)
}
setTimeout(() => fail('nothing more to do'), 15000)

const client = mqtt.connect(url, options)
client.on('error', fail)
client.on('message', (name, payload, packet) => {
  if (action !== 'ask') return console.log(`MESSAGE|${name}|${packet.qos}|${packet.retain ? 1 : 0}|${payload}`)
  console.log(String(payload))
  client.end(false, () => process.exit(0))
})
client.on('connect', () => {
  if (action === 'publish') {
    const [payload, qos, retain] = rest
    client.publish(topic, payload, { qos: Number(qos), retain: retain === '1' }, error =>
      error ? fail(error) : client.end(false, () => process.exit(0)))
  } else if (action === 'ask') {
    client.subscribe(`$registry/${topic}/response`, error =>
      error ? fail(error) : client.publish(`$registry/${topic}`, rest[0]))
  } else {
    const [filter, qos] = action === 'subscribe' ? [topic, Number(rest[0])] : ['it/none', 0]
    client.subscribe(filter, { qos }, (error, granted) =>
      error || granted.some(grant => grant.qos > 2) ? fail(error || 'refused') : console.log('SUBSCRIBED'))
  }
})
